"""``fleet wva migrate``: objects of upstream's autoscaler, and of KEDA alone, turned into ours."""
