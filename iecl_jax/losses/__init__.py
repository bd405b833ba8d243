"""The losses of all methods and the terms of Eq. 17, as pure functions of embeddings."""
