"""What an application does through the client, one scenario each, every one in a database of its own.

A scenario gets a `peer.Peer`, which is the synchronous or the asynchronous client: `await done(call)`
is the result with both. They are in `catalog_scenarios` and `record_scenarios`.
"""


def registry():
    """The scenarios of a module, in their order, and the decorator that enters them."""
    entered = []

    def scenario(function):
        entered.append(function)
        return function

    return entered, scenario
