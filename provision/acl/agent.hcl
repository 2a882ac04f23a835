# The agent itself: its own node in the catalog.
node_prefix "" { policy = "write" }
service_prefix "" { policy = "read" }
