# Beside `node` and `sealed`: the passwords of the services that a hypervisor talks to.
key_prefix "stacktira/secret/hyper/" { policy = "read" }
