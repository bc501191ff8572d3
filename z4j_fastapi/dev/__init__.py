"""Local development: the real brain as a child process, provisioned over its REST API.

Nothing here is imported by a running agent. Only the standard library is used, so that the demo
and the tests can start everything without another dependency.
"""

from __future__ import annotations
