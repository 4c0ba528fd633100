"""Ways to train one network, all with the same data, loss, optimizer and batch size: what the benchmark compares.

A contender is ``prepare(problem, seeds) -> train``, and ``train(steps)`` trains all seeds for so many steps, waits
until they are done, and gives the mean loss over steps and seeds. Everyone takes the examples in epochs of shuffled
batches and minimises by Adam.
"""
