"""Live sessions: sound in, text out while it is spoken.

    front end -> client.LiveProcess -> pipe -> process.py -> session.Session (one for each)

A process of its own holds the model of live sessions. Workers run at a lower priority, so an
utterance is ahead of batch work without waiting for the batch in progress.
"""
