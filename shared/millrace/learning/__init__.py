"""Learning: candidates, search, fit, export to ONNX and parity; the only importer of scikit-learn.

* `features`: rows as the model takes them, and the encoder (imputation, flags, scaling, one-hot);
* `candidates`: the algorithms, their sampled hyperparameters and their bounds;
* `folds`, `scoring`, `search`: the plan, cross-validation and the choice of the winner;
* `model`, `export`, `parity`: a fitted pipeline, its ONNX graph, and their agreement;
* `service`: the three actions of the train function over S3.
"""
