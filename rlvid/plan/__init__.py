"""What a config asks of its machines, before any is rented: memory, tokens, bytes, advice, and the time of a step where rates are known.

Nothing is started and no weight is read.
"""
