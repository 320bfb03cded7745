"""How an op finds the backend that runs it.

`registry` names the backends and chooses one, `autotune` measures which is fastest, `tuning_cache` keeps that on disk.
`native` loads the compiled libraries; `native_cpu`, `native_cuda` and `triton_support` call the kernels.
`fast_path` calls an operator's body directly where nothing observes the call. Caches are keyed by `source_hash`.
"""
