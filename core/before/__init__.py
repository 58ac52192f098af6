"""What can be known before a start: faults, remarks, cost, time, memory, controls. No torch."""
