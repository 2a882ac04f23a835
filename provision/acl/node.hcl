# The tools on every node: they read what the cluster knows, and say how this node is.
agent_prefix "" { policy = "write" }
node_prefix "" { policy = "write" }
service_prefix "" { policy = "write" }
session_prefix "" { policy = "write" }
event_prefix "" { policy = "read" }
query_prefix "" { policy = "read" }
key_prefix "" { policy = "read" }
key_prefix "stacktira/" { policy = "write" }
# Which snapshot a node uses is for `mirror` and `operator` to say; a node reports what it uses.
key_prefix "stacktira/mirror/" { policy = "read" }
key_prefix "stacktira/mirror/state/" { policy = "write" }
