"""The encoders, one file per family. `config.encoder.name` may also be the path of another file.

A file of an encoder defines

    Settings                        a `config.section.Section`: the keys of config.encoder that it
                                    reads, besides `name` and `bn_group`
    make(config, *, axis_name)      -> flax.linen.Module
    NAMES                           the architectures that it makes (only in this package)
    check(config, num_devices)      raises ValueError for settings that do not fit together
                                    (optional)
    depth(name)                     the place from input to output, from 0, of the part of the
                                    network with this name among the parameters: so fine-tuning can
                                    lower the rates of early parts (optional)

The module is called as

    encoder(x, *, train, num_views=1, running_views=1)

where x is float32 [V * b, S, S, 3], the images of V views one after another. It returns a dict with
"pooled", the features float32 [V * b, F], and optionally "stage1", "stage2", ... Batch statistics
(the collection "batch_stats", which moves if `train` is True), convolutions and spectral vectors
are optional too. A module without batch statistics may ignore `train` and the views. A module must
not draw random numbers except for its initial parameters.
"""
