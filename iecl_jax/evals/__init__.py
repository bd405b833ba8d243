"""Evaluations of a network during training or on a checkpoint, one file for each.

`load` returns the encoder of a run, for images of one's own.

`eval.names` lists the evaluations of a training. `job` is the evaluation of a checkpoint. Both name
a file of this folder or the path of any other `.py` file with the same contents. A job evaluates on
the images of the pretraining, or on those that `config.data.name` names. An evaluation has

    Settings                     a Section with its keys. Inherit from `parts.schedule.Every` or
                                 `AtEnd`, which add the key `when`: when to run during training
    RESULTS                      {result: description for a reader}. A description that ends in
                                 "(%)" means that the value is a share from 0 to 1, shown times 100
    measure(subject, settings)   returns {result: number}; see `parts.subject.Subject`. It may also
                                 return results that are not in RESULTS, and tables of numbers as
                                 nested mappings: they are not told on the console

and may have

    check(subject, settings)     raises ValueError before the training or the job starts. The
                                 message starts with the key, as in "knn.k=70 is more than ..."
    Job                          a Section with the keys for a checkpoint, if they differ from
                                 those of Settings
    Data                         a Section, if the job has images of its own: the keys of
                                 `config.data`, in the place of the folder of the network's data
                                 set. `subject.own_data` has their values; during a training, where
                                 there are none, it is None
    SEEDED                       False, if the seed of a job changes nothing: so `tools.evaluate`
                                 runs it once
    PICTURES                     {picture: caption}, for the report, of the pictures that a
                                 training of the job writes to its log
"""

from iecl_jax.evals.parts.frozen import load
from iecl_jax.evals.parts.schedule import scheduled

__all__ = ["load", "scheduled"]
