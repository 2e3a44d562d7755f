"""Serving: a model behind an address of this machine, for programs and for a person with a browser.

The front (`application`, one process without the model) checks who asks and what is sent; replicas
(`deployment`, Ray Serve) hold the model and answer in batches. They meet in one function, so each is tested
without the other.
"""
