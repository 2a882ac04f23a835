# Beside `node`: the build node moves the pointers of the mirror that it serves.
key_prefix "stacktira/mirror/" { policy = "write" }
