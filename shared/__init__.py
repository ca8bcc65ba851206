"""What the master and its clients both need: the wire, its sentences, whose process speaks. It
imports nothing else of ours."""
