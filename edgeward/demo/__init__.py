"""One model's whole life on one machine, played by the same programs that users run.

`story` is the order of events, `processes` starts and ends the programs, `traffic` asks the devices for answers the whole time,
`facts` says what came of it. Nothing here is special to the demo in the programs themselves: it only calls their command lines.
"""
