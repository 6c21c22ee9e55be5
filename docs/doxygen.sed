# What doxygen reads in place of a header: names as a program writes them, without the version's
# inline namespace and those of instruction sets, and without the namespaces of private parts.
s/::inline v0_1//
s|^namespace PAGEDKV_ISA_NAMESPACE {$||
s|^}  // namespace PAGEDKV_ISA_NAMESPACE$||
s|^using PAGEDKV_ISA_NAMESPACE::.*||
s|^namespace detail[a-z_]* {$|/** @cond */ &|
s|^}  // namespace detail[a-z_]*$|& /** @endcond */|
