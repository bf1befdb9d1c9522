"""What happens around the steps of a training run, one callback per file; `lab.train.fit` puts them in order."""
