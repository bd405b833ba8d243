"""The operators of a view, a file each.

A file declares `Settings` and `apply(key, image, settings, size) -> image`: from the image's own
key and float32 [H, W, 3] in [0, 1] to float32 [size, size, 3] in [0, 1]. Every operator but `crop`
gets [size, size, 3]. An operator whose setting `prob` is 0 is left out of the program.
"""
