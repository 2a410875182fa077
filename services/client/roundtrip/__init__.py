"""The round trip: findings of an audit out to where people look at them, their decisions back into the manifest."""
