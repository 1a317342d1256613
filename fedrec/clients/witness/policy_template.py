"""Define the policy file that ``fedrec witness init`` writes; its comments explain every rule."""

TEMPLATE = """\
# The rules of this witness: for whom it opens sums, and how often. They are checked when it joins a training
# and again at every opening; a refusal names the rule. A witness has no photos, and nothing is charged to it.
# A line that starts with '#' is a comment. A rule that is left out has the value shown here.

# The merchants, by their names on the approved roster, for whom it opens: a training with any other is
# refused (any by default).
# merchants = ["<name>", "<name>", "<name>"]

# The allowed privacy modes, and the allowed schemes of secure aggregation.
modes = ["distributed", "local"]
schemes = ["kahe"]

# The fewest merchants in an opened sum, the fewest of them that a plan must assume to collude with the
# server, how many corrupt members the committee must withstand, witnesses' included, and the largest
# probability that the draw of its members selects more colluders than that.
least_contributors = 3
least_colluders = 1
least_corrupt_members = 1
largest_seat_risk = 1e-8

# The most sums that are opened of one training, and of all trainings in one day, UTC (no limit by default). A
# training with more rounds is refused.
largest_openings_per_training = 2000
# largest_openings_per_day = 200

# The approved roster, and the server by the key that signs its requests (by default those of the join file).
# roster_fingerprint = "<64 hexadecimal digits>"
# server_key = "<64 hexadecimal digits>"

# Close a training and delete its key after this many days without a request from the server. Refuse a plan
# whose upload window isn't shorter.
training_expires_days = 30
"""
