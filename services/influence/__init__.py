import os

# The library under gRPC writes lines of its own to standard error, one for each broken handshake: whoever can reach the
# port could fill the log with what is not JSON. It reads this when it is loaded, so it is set before that.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
