"""Encoders, a file a family; any other Python file can be one by its path (`config.encoder.name`).

A file has `Settings(Section)`, whose keys stand beside `encoder.name` and `encoder.bn_group`,
`make(config, *, axis_name) -> flax.linen.Module`, in this package `NAMES`, the architectures that
it makes, and perhaps `check(config, num_devices)`, which raises ValueError for settings that do not
go together. The module is called as

    encoder(x, *, train, num_views=1, running_views=1)

with x float32 [V * b, S, S, 3], the images of V views one after another. It returns "pooled",
float32 [V * b, F], which everything else starts from, and whatever "stage1", "stage2", ... it has.
Nothing more is asked of it: batch statistics (the collection "batch_stats", moved where `train` is
True), convolutions and spectral vectors are optional, and without statistics it may ignore `train`
and the views. It draws nothing at random but its initial parameters.
"""
