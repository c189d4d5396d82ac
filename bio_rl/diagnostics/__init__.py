"""How a rule does what it does: what is measured on a network beside the return that it reaches."""
