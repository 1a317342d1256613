"""The public API of ``import fedrec``, one module per topic; nothing inside the package imports it."""
