"""Methods of customised generation behind one protocol: ours, and what it is compared with."""
