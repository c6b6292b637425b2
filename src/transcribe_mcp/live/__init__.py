"""Live sessions: transcribe audio while it is spoken.

    front end -> client.LiveProcess -> pipe -> process.py -> session.Session (one for each)

A separate process holds the model of live sessions. Workers run at a lower priority, so an
utterance does not wait for the batch in progress.
"""
