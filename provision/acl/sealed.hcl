# Beside `node`, for whoever has no business with the services' passwords. A role that has none reads its own
# place and finds it empty.
key_prefix "stacktira/secret/" { policy = "deny" }
key_prefix "stacktira/secret/proxy/" { policy = "read" }
key_prefix "stacktira/secret/build/" { policy = "read" }
