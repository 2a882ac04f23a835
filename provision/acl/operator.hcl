# Beside `node`: the control plane publishes, and operators write, what all nodes look up.
key_prefix "hiera/" { policy = "write" }
event_prefix "" { policy = "write" }
