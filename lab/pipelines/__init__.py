"""Train, evaluate, export, compile, bench, predict: the only code that joins the siblings of layer 3."""
