"""The z4j wire protocol, version 2, as pure code: bytes and clock values in, bytes and values out.

Nothing here opens a socket, reads a clock or touches a file. `session.AgentSession` is the way in.
"""
