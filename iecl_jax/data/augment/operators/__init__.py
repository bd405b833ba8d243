"""The operators of a view, one file each.

A file defines

    Settings                                  a `config.section.Section`
    apply(key, image, settings, size)         -> image

`apply` gets a random key of this image and this operator, and the image, float32 [size, size, 3] in
[0, 1]. It returns an image of that shape and range. `crop` is the exception: it gets images
[H, W, 3]. An operator whose setting `prob` is 0 is left out of the program.
"""
