"""What the compile report measures and shows: kernels against the machine's peaks, the graph, memory, phases."""
