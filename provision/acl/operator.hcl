# Beside `node`: the control plane publishes, and operators write, what all nodes look up. What it makes below
# stacktira/secret/ the others are kept from by `sealed`.
key_prefix "hiera/" { policy = "write" }
event_prefix "" { policy = "write" }
