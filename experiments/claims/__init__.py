"""The experiments, one file each and nothing else: the command line finds them, the report gives each a page.

A new experiment is a new file here with a function ``run(settings, log) -> Outcome``, such as ``sine.py``::

    \"\"\"A hidden layer learns a sine.

    Command: ``python -m experiments sine``; 5 seconds on two CPU cores. Expect a loss below 0.01.
    \"\"\"

    import jax.numpy as jnp
    import fnn
    from experiments import report as r

    SMALL = r.Claim("After 1000 steps the loss is below 0.01.")


    def experiment(key, eta):
        x = jnp.linspace(-3, 3, 64)[:, None]
        net = fnn.serial(fnn.dense(16, fnn.tanh), fnn.linear(1))
        learn = fnn.trainer(net, fnn.squared, fnn.adam(eta), batch_size=16)
        state = learn.init(key, (x, jnp.sin(x)))
        return fnn.train(learn, state, (x, jnp.sin(x)), steps=1000, every=250)[1]["loss"]


    def run(settings, log):
        loss = r.sweep_seeds(experiment, settings, eta=[0.01])[:, 0]
        picture = r.curves(
            range(250, 1001, 250), {"adam": loss}, "The loss.", "The loss falls.", xlabel="step", ylabel="loss"
        )
        return r.Outcome("A network learns sin x.", [r.at_most(SMALL, 0.01, loss[:, -1])], figures=[picture])

A file that declares ``TAKES = "network"`` accepts what the user gives by ``--network``.
"""
