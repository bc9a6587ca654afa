"""Shadow mode: a challenger scores the champion's rows in a process of its own, which nobody waits for.

In the replica: `tap` takes what champions have scored, `link` keeps the process and the socket to it, `asks` carries
direct requests there, `accounts` counts, and `replica` holds them together. In the shadow process: `process` wires,
`challenger` loads and scores, `recorder` writes the pairs. `frames` is what they say to each other.
"""
