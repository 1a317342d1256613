"""Networks from a safetensors file and the name of their architecture."""
