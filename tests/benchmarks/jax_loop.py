"""The loop of plain_loop.py in JAX, as a good user would write it: scans of whole steps under jit, Adam of optax, fp32.

    python tests/benchmarks/jax_loop.py train LAYERS K BATCH   prints images per second
    python tests/benchmarks/jax_loop.py eval LAYERS            prints rows (image × sample) per second

Needs jax, optax and torch, and nothing of iwae_lab. XLA takes all cores that the process may use.
"""

import itertools
import math
import sys
from typing import Any

import jax
import jax.numpy as jnp
import optax
from plain_loop import median_seconds

STEPS = 50  # per call
Parameters = dict[str, Any]


def linear(key: Any, n_in: int, n_out: int) -> Parameters:
    bound = 1 / math.sqrt(n_in)
    return {"w": jax.random.uniform(key, (n_in, n_out), minval=-bound, maxval=bound), "b": jnp.zeros(n_out)}


def tanh_network(key: Any, sizes: list[int]) -> list[Parameters]:
    keys = jax.random.split(key, len(sizes) - 1)
    return [linear(key, *pair) for key, pair in zip(keys, itertools.pairwise(sizes), strict=True)]


def gaussian(key: Any, n_in: int, n_hidden: int, n_out: int) -> Parameters:
    body, mean, log_std = jax.random.split(key, 3)
    return {
        "body": tanh_network(body, [n_in, n_hidden, n_hidden]),
        "mean": linear(mean, n_hidden, n_out),
        "log_std": linear(log_std, n_hidden, n_out),
    }


def model(layers: int) -> Parameters:
    q1, q2, p1, pixels, last = jax.random.split(jax.random.key(0), 5)
    units = 100 if layers == 2 else 50
    made = {
        "q1": gaussian(q1, 784, 200, units),
        "pixels": [*tanh_network(pixels, [units, 200, 200]), linear(last, 200, 784)],
    }
    if layers == 2:
        made |= {"q2": gaussian(q2, 100, 100, 50), "p1": gaussian(p1, 50, 100, 100)}
    return made


def apply(layer: Parameters, h: Any) -> Any:
    return h @ layer["w"] + layer["b"]


def hidden(layers: list[Parameters], h: Any) -> Any:
    for layer in layers:
        h = jnp.tanh(apply(layer, h))
    return h


def moments(layer: Parameters, h: Any) -> tuple[Any, Any]:
    h = hidden(layer["body"], h)
    return apply(layer["mean"], h), apply(layer["log_std"], h)


def log_normal(z: Any, mean: Any, log_std: Any) -> Any:
    return (-0.5 * ((z - mean) * jnp.exp(-log_std)) ** 2 - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)


def log_weights(parameters: Parameters, x: Any, k: int, key: Any) -> Any:
    key1, key2 = jax.random.split(key)
    mean, log_std = moments(parameters["q1"], x)
    z = top = mean + jnp.exp(log_std) * jax.random.normal(key1, (k, *mean.shape))
    log_w = -log_normal(z, mean, log_std)
    if "q2" in parameters:
        mean2, log_std2 = moments(parameters["q2"], z)
        top = mean2 + jnp.exp(log_std2) * jax.random.normal(key2, mean2.shape)
        log_w += log_normal(z, *moments(parameters["p1"], top)) - log_normal(top, mean2, log_std2)
    log_w += log_normal(top, jnp.zeros(()), jnp.zeros(()))
    *body, last = parameters["pixels"]
    logits = apply(last, hidden(body, z))
    return log_w + (x * logits - jax.nn.softplus(logits)).sum(-1)


def train(layers: int, k: int, batch: int) -> float:
    images = jax.random.uniform(jax.random.key(1), (20_000, 784))
    optimizer = optax.adam(1e-3)
    parameters = model(layers)
    carry = parameters, optimizer.init(parameters), jax.random.key(2)

    def step(carry: Any, _: None) -> tuple[Any, Any]:
        parameters, state, key = carry
        key, choice, pixels, noise = jax.random.split(key, 4)
        x = jax.random.bernoulli(pixels, images[jax.random.randint(choice, (batch,), 0, len(images))]).astype(float)

        def loss(parameters: Parameters) -> Any:
            return -(jax.nn.logsumexp(log_weights(parameters, x, k, noise), 0) - math.log(k)).mean()

        value, gradients = jax.value_and_grad(loss)(parameters)
        updates, state = optimizer.update(gradients, state)
        return (optax.apply_updates(parameters, updates), state, key), value

    steps = jax.jit(lambda carry: jax.lax.scan(step, carry, None, length=STEPS), donate_argnums=0)

    def call() -> None:
        nonlocal carry
        carry, losses = steps(carry)
        losses.block_until_ready()

    return batch * STEPS / median_seconds(call, warm_up=2)


def evaluate(layers: int, batch: int = 20, k: int = 250) -> float:
    x = jax.random.bernoulli(jax.random.key(1), 0.5, (batch, 784)).astype(float)
    function = jax.jit(log_weights, static_argnums=2)
    parameters, key = model(layers), jax.random.key(2)
    return batch * k / median_seconds(lambda: function(parameters, x, k, key).block_until_ready(), warm_up=2)


if __name__ == "__main__":
    kind, *numbers = sys.argv[1:]
    print((train if kind == "train" else evaluate)(*map(int, numbers)))
