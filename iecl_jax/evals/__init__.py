"""Evaluations, a file each: what is measured of a network during training or on a checkpoint.

`eval.names` names those of a training and `job` that of a checkpoint: a file here, or the path of
any `.py` file like them. An evaluation has

    Settings                     a Section: its keys; `when`, the moments of a training, comes from
                                 `parts.schedule.Every` or `AtEnd`
    RESULTS                      {result: words for a reader}; "(%)" at their end says that the
                                 value is a share from 0 to 1, which is shown times 100
    measure(subject, settings)   -> {result: number}; also tables of numbers, and results without
                                 words, which go to results.json alone; see `parts.subject.Subject`

and may have

    check(subject, settings)     raises ValueError before a training or a job begins; the sentence
                                 starts with the key, as in "knn.k=70 is more than ..."
    Job                          a Section: the keys on a checkpoint, where they are others
"""

from iecl_jax.evals.parts.schedule import scheduled

__all__ = ["scheduled"]
