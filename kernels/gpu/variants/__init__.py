"""Ways to accumulate on a GPU, all with the signature and the result of `kernels.accumulate`.

What each costs on a GPU is for `python -m benchmarks.gpu` to measure; `kernels.gpu.accumulate` says which one is used.

| variant | products | memory beside the tables |
|---|---|---|
| `atomics` | float64 atomics: last bits differ from run to run | none |
| `packed` | fixed point, one word for counts and sum, token by token | 8 bytes a cell |
| `rows` | fixed point, one word for counts and sum, row by row | two rows a program, one a hot row |
| `histogram` | counts from histograms, products as in `rows` | as `rows` |
| `sorting` | fixed point, by a sort of the cells | 100 bytes an update, 2^24 updates at a time |

Gluon has not got what it takes: a row in shared memory needs updates of shared memory that do not lose one another. Triton 3.6 has
neither `gather` nor `scatter` on a `shared_memory_descriptor`; 3.7.1 has both, but they are plain loads and stores, right only for
one token at a time, whose features differ, with a barrier after each; `atomic_add` on it (triton-lang/triton, pull request 10100)
is in neither. Nor does Gluon run in the interpreter, so that nothing of it could be tested without a GPU. What else it offers here,
a layout of one element per thread, a block of as many elements as there are threads gives too.
"""
