"""The parts that methods share: networks, momentum, queue, contrast, objective and SAIB."""
