"""A convolution as a layer of a network of rows: its backward pass is automatic, the rest of the network's by hand."""

from typing import Any

import jax
import jax.numpy as jnp

from fnn import Layer, from_function


def convolution(shape: tuple[int, int, int], channels: int, size: int = 3) -> Layer:
    """Images of a shape [h, w, c], given as rows [n, h·w·c], to rows [n, h·w·channels]; kernels of size × size."""
    h, w, c = shape

    def init(key: jax.Array, x: Any) -> Any:
        scale = (2 / (size * size * c)) ** 0.5
        kernel = jax.random.normal(key, (size, size, c, channels), x.dtype) * jnp.asarray(scale, x.dtype)
        return {"w": kernel, "b": jnp.zeros(channels, x.dtype)}

    def f(params: Any, x: jax.Array) -> jax.Array:
        images, layout = x.reshape(-1, h, w, c), ("NHWC", "HWIO", "NHWC")
        y = jax.lax.conv_general_dilated(images, params["w"], (1, 1), "SAME", dimension_numbers=layout)
        return (y + params["b"][None, None, None]).reshape(len(x), -1)

    return from_function(init, f, f"convolution({shape}, {channels}, {size})")
