"""Find photos that were made from other photos: cropped, mirrored, framed, marked, or in a collage."""
