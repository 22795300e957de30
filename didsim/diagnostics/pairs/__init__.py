"""What a table of pairs shows.

table        the columns of a table of pairs, and checks of its rows
calibration  the slope of preferences on rewards
measures     what is measured on each checkpoint
movement     findings on where the probabilities of responses went
preferences  findings on calibration and on the order of policies
saying       what findings share
findings     all findings, and what stays unknown
figures      pictures of what was measured
diagnosis    from a file to its findings
"""
