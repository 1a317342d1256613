"""Judge a product photo by its pixels: sharpness, exposure, size, borders, overlaid text, background."""
