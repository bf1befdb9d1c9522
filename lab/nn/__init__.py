"""What two or more tasks share in torch: the learning protocol, batch loaders, plots."""
