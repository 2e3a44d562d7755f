"""The parts of `benchmarks.gpu_step`: shapes, model FLOPs, training cells and answering cells."""
