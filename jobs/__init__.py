"""What happens: the job kinds, and the flow that takes one delivery through one transaction."""
