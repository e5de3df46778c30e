"""Check and benchmark the GPU path; compile its kernels and count its host time without a GPU.

python -m experiments.gpu                       # on a GPU: one run, made for four minutes
python -m experiments.gpu --device cpu --tiny   # Triton's interpreter, tiny shapes
python -m experiments.gpu.compile               # no GPU: registers and spills per architecture
python -m experiments.gpu.overhead              # no GPU: host time per call
"""
