# Whoever asks a node's agent without a token, and services that the agent's files define: the catalog may be
# read (DNS), and a service be registered on this node; no key, no session, no other node.
node_prefix "" { policy = "read" }
service_prefix "" { policy = "write" }
