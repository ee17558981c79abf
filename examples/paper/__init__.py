"""The paper's experiments: networks, training, and one module per data set."""
