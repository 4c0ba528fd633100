"""Weights of flax and torch, copied by the reshapes that `fnn.nn` documents, give the same outputs here.

A peer's tests are skipped where it is not installed; with the environment variable PEERS those of flax are not.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnn import Layer, grouped, linear
from fnn.nn import attention, conv, embedding, gru, layer_norm, lstm
from fnn.testing._trees import normal
from tests.house.test_interoperation import installed


def drawn(*shape: int, seed: int = 1) -> np.ndarray:
    return np.asarray(normal(jax.ShapeDtypeStruct(shape, jnp.float64), seed))


def check(layer: Layer, params: Any, x: np.ndarray, want: Any) -> None:
    like, state = jax.eval_shape(layer.init, jax.random.key(0), x)
    params = jax.tree.map(lambda leaf, v: jnp.asarray(v).reshape(leaf.shape), like, params)
    np.testing.assert_allclose(layer.apply(params, state, jnp.asarray(x)), want, rtol=1e-9, atol=1e-9)


class OfFlax:
    """Modules of flax.linen, with float64 parameters drawn at random."""

    @staticmethod
    def posed(module: Any, *shape: int) -> tuple[dict[str, Any], np.ndarray, Any]:
        x = drawn(*shape)
        variables = module.init(jax.random.key(0), jnp.asarray(x))
        variables = jax.tree.map(lambda leaf: normal(leaf, 3, scale=0.5), variables)
        return jax.tree.map(np.asarray, variables["params"]), x, module.apply(variables, jnp.asarray(x))


F64 = {"dtype": jnp.float64, "param_dtype": jnp.float64}


@pytest.mark.parametrize(("stride", "padding"), [(1, "same"), (2, "same"), (2, "valid")])
def test_flax_conv(stride: int, padding: str) -> None:
    nn = installed("flax.linen")
    p, x, y = OfFlax.posed(nn.Conv(4, (3, 2), (stride, stride), padding.upper(), **F64), 2, 6, 5, 3)
    check(conv(4, (3, 2), stride=stride, padding=padding), {"w": p["kernel"].reshape(-1, 4), "b": p["bias"]}, x, y)


def test_flax_grouped_conv() -> None:
    nn = installed("flax.linen")
    p, x, y = OfFlax.posed(nn.Conv(6, (3, 3), feature_group_count=2, **F64), 2, 4, 4, 4)
    w = p["kernel"].reshape(18, 2, 3).swapaxes(0, 1)  # [k·c, groups, o] of each group
    check(grouped(conv(3, 3), 2), {"w": w, "b": p["bias"].reshape(2, 3)}, x, y)


def test_flax_layer_norm_and_embedding() -> None:
    nn = installed("flax.linen")
    with jax.numpy_dtype_promotion("standard"):  # it promotes float64 by float32 itself
        p, x, y = OfFlax.posed(nn.LayerNorm(epsilon=1e-5, **F64), 2, 3, 4)
    check(layer_norm(), {"gamma": p["scale"], "beta": p["bias"]}, x, y)
    module, tokens = nn.Embed(7, 3, **F64), np.array([[1, 6, 0]])
    table = drawn(7, 3)
    want = module.apply({"params": {"embedding": jnp.asarray(table)}}, jnp.asarray(tokens))
    check(embedding(7, 3, dtype=jnp.float64), {"table": table}, tokens, want)


@pytest.mark.parametrize("causal", [False, True])
def test_flax_attention(causal: bool) -> None:
    nn = installed("flax.linen")
    module, x = nn.MultiHeadDotProductAttention(num_heads=2, **F64), jnp.asarray(drawn(2, 5, 6))
    variables = jax.tree.map(lambda leaf: normal(leaf, 3, scale=0.5), module.init(jax.random.key(0), x))
    y = module.apply(variables, x, mask=nn.make_causal_mask(jnp.ones((2, 5), jnp.float64)) if causal else None)
    p = jax.tree.map(np.asarray, variables["params"])
    first = {
        "w": np.stack([p[name]["kernel"] for name in ("query", "key", "value")], axis=2).reshape(6, 18),
        "b": np.stack([p[name]["bias"] for name in ("query", "key", "value")], axis=1).reshape(18),
    }
    check(
        attention(6, 2, causal=causal), (first, (), {"w": p["out"]["kernel"], "b": p["out"]["bias"]}), np.asarray(x), y
    )


def test_flax_lstm() -> None:
    nn = installed("flax.linen")
    p, x, y = OfFlax.posed(nn.RNN(nn.OptimizedLSTMCell(4, **F64)), 2, 5, 3)
    p = p["cell"]
    first = {
        "w": np.hstack([p[f"i{g}"]["kernel"] for g in "ifgo"]),
        "b": np.hstack([p[f"h{g}"]["bias"] for g in "ifgo"]),
    }
    check(lstm(4), (first, {"w": np.hstack([p[f"h{g}"]["kernel"] for g in "ifgo"])}), x, y)


def test_flax_gru() -> None:
    nn = installed("flax.linen")
    p, x, y = OfFlax.posed(nn.RNN(nn.GRUCell(4, **F64)), 2, 5, 3)
    p = p["cell"]
    first = {"w": np.hstack([p[f"i{g}"]["kernel"] for g in "rzn"]), "b": np.hstack([p[f"i{g}"]["bias"] for g in "rzn"])}
    last = {"w": np.hstack([p[f"h{g}"]["kernel"] for g in "rzn"]), "b": np.hstack([np.zeros(8), p["hn"]["bias"]])}
    check(gru(4), (first, last), x, y)


def of_torch(module: Any, *shape: int) -> tuple[dict[str, np.ndarray], np.ndarray, Any]:
    torch = pytest.importorskip("torch")
    module, x = module.double(), drawn(*shape)
    with torch.no_grad():
        for i, parameter in enumerate(module.parameters()):
            parameter.copy_(torch.from_numpy(drawn(*parameter.shape, seed=i) / 2))
        return (
            {name: v.numpy() for name, v in module.state_dict().items()},
            x,
            lambda x: module(torch.from_numpy(x.copy())),
        )


def test_torch_conv() -> None:
    torch = pytest.importorskip("torch")
    p, x, f = of_torch(torch.nn.Conv2d(3, 4, (3, 2), stride=2, padding=1), 2, 6, 5, 3)
    y = f(x.transpose(0, 3, 1, 2)).detach().numpy().transpose(0, 2, 3, 1)
    w = p["weight"].transpose(2, 3, 1, 0).reshape(-1, 4)
    check(conv(4, (3, 2), stride=2, padding=((1, 1), (1, 1))), {"w": w, "b": p["bias"]}, x, y)


def test_torch_layer_norm_and_linear() -> None:
    torch = pytest.importorskip("torch")
    p, x, f = of_torch(torch.nn.LayerNorm(4), 2, 3, 4)
    check(layer_norm(), {"gamma": p["weight"], "beta": p["bias"]}, x, f(x).detach().numpy())
    p, x, f = of_torch(torch.nn.Linear(4, 2), 2, 3, 4)
    check(linear(2), {"w": p["weight"].T, "b": p["bias"]}, x, f(x).detach().numpy())


def test_torch_attention() -> None:
    torch = pytest.importorskip("torch")
    p, x, _ = of_torch(module := torch.nn.MultiheadAttention(6, 2, batch_first=True), 2, 5, 6)
    t = torch.from_numpy(x.copy())
    y = module(t, t, t, need_weights=False)[0].detach().numpy()
    first = {
        "w": p["in_proj_weight"].reshape(3, 2, 3, 6).transpose(3, 1, 0, 2).reshape(6, 18),
        "b": p["in_proj_bias"].reshape(3, 2, 3).swapaxes(0, 1).reshape(18),
    }
    check(attention(6, 2), (first, (), {"w": p["out_proj.weight"].T, "b": p["out_proj.bias"]}), x, y)


def test_torch_lstm_and_gru() -> None:
    torch = pytest.importorskip("torch")
    p, x, f = of_torch(torch.nn.LSTM(3, 4, batch_first=True), 2, 5, 3)
    first = {"w": p["weight_ih_l0"].T, "b": p["bias_ih_l0"] + p["bias_hh_l0"]}
    check(lstm(4), (first, {"w": p["weight_hh_l0"].T}), x, f(x)[0].detach().numpy())
    p, x, f = of_torch(torch.nn.GRU(3, 4, batch_first=True), 2, 5, 3)
    first, last = ({"w": p[f"weight_{k}_l0"].T, "b": p[f"bias_{k}_l0"]} for k in ("ih", "hh"))
    check(gru(4), (first, last), x, f(x)[0].detach().numpy())
