"""The interpreter: a model run on CPU in torch, one kernel a node, values freed at their last use."""
