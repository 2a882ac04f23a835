# Beside `node`: the control plane publishes, and operators write, what all nodes look up. What it makes below
# stacktira/secret/ the others are kept from by `sealed`. Operators also say which snapshot of the mirror nodes use.
key_prefix "hiera/" { policy = "write" }
key_prefix "stacktira/mirror/" { policy = "write" }
event_prefix "" { policy = "write" }
